// The network: set up once, then as many inferences as you like.
#pragma once

#include <cstddef>

#include "model_settings.h"

namespace network {

// Loads the model and gives it its arena. False: the log says why, and nothing else may be called.
bool Begin();

// Where the first input goes, model_settings::kInputs[0].size numbers of it.
model_settings::InputNumber* Input();

// One inference. False: the log says why.
bool Run();

// The first output of the last inference, model_settings::kOutputs[0].size numbers of it.
const model_settings::OutputNumber* Output();

// Bytes of the arena that are really used on this device: put it into kArenaBytes to save RAM.
std::size_t UsedArenaBytes();

}  // namespace network
