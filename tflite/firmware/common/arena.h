// The memory that TensorFlow Lite Micro works in.
#pragma once

#include <cstdint>

#include "model_settings.h"

extern std::uint8_t g_arena[model_settings::kArenaBytes];
