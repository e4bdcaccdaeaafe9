// Where samples come from: the one thing that you have to write.
#pragma once

namespace samples {

// Prepares the sensor. False: there is none.
bool Begin();

// Fills `real` with the next sample, prepared as the network was trained on (the same scaling,
// the same features). False: none is ready yet.
bool Read(float* real, int count);

}  // namespace samples
