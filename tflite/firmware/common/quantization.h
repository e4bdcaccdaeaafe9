// Real numbers to the model's own and back; needs no runtime.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "model_settings.h"

// What the model stores for a real number: rounded, and saturated at the ends of the type.
template <typename Number>
inline Number Quantize(float real, const model_settings::TensorSpec& spec) {
  if (std::is_floating_point<Number>::value || spec.scale == 0.0f) {
    return static_cast<Number>(real);
  }
  const float steps = std::round(real / spec.scale) + static_cast<float>(spec.zero_point);
  const float low = static_cast<float>(std::numeric_limits<Number>::min());
  const float high = static_cast<float>(std::numeric_limits<Number>::max());
  return static_cast<Number>(steps < low ? low : (steps > high ? high : steps));
}

// The real number that the model means by a stored one.
template <typename Number>
inline float Dequantize(Number stored, const model_settings::TensorSpec& spec) {
  if (std::is_floating_point<Number>::value || spec.scale == 0.0f) {
    return static_cast<float>(stored);
  }
  return (static_cast<float>(stored) - static_cast<float>(spec.zero_point)) * spec.scale;
}

// The index of the largest of the outputs.
template <typename Number>
inline int Largest(const Number* outputs, int count) {
  int best = 0;
  for (int index = 1; index < count; ++index) {
    if (outputs[index] > outputs[best]) best = index;
  }
  return best;
}
