#include "network.h"

#include "arena.h"
#include "model_data.h"
#include "op_resolver.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace network {
namespace {

tflite::MicroInterpreter* g_interpreter = nullptr;

}  // namespace

bool Begin() {
  const tflite::Model* model = tflite::GetModel(g_model_data);
  if (model->version() != TFLITE_SCHEMA_VERSION) {
    MicroPrintf("The model has schema version %d, this library knows %d.",
                static_cast<int>(model->version()), TFLITE_SCHEMA_VERSION);
    return false;
  }
  static ModelOpResolver resolver;
  if (RegisterOperators(resolver) != kTfLiteOk) {
    MicroPrintf("The library lacks an operator of the model.");
    return false;
  }
  static tflite::MicroInterpreter interpreter(model, resolver, g_arena,
                                              model_settings::kArenaBytes);
  if (interpreter.AllocateTensors() != kTfLiteOk) {
    MicroPrintf("The arena of %d bytes is too small: raise kArenaBytes.",
                static_cast<int>(model_settings::kArenaBytes));
    return false;
  }
  g_interpreter = &interpreter;
  return true;
}

model_settings::InputNumber* Input() {
  return reinterpret_cast<model_settings::InputNumber*>(g_interpreter->input(0)->data.raw);
}

bool Run() {
  if (g_interpreter->Invoke() != kTfLiteOk) {
    MicroPrintf("The inference failed.");
    return false;
  }
  return true;
}

const model_settings::OutputNumber* Output() {
  return reinterpret_cast<const model_settings::OutputNumber*>(g_interpreter->output(0)->data.raw);
}

std::size_t UsedArenaBytes() { return g_interpreter->arena_used_bytes(); }

}  // namespace network
