#include "arena.h"

// In .bss: it costs RAM and no flash.
alignas(16) std::uint8_t g_arena[model_settings::kArenaBytes];
