#include "classify.h"

#include "network.h"
#include "quantization.h"
#include "samples.h"

namespace {

float g_sample[model_settings::kInputs[0].size];

}  // namespace

bool ClassifierBegin() { return samples::Begin() && network::Begin(); }

bool Classify(Answer* answer) {
  const model_settings::TensorSpec& in = model_settings::kInputs[0];
  const model_settings::TensorSpec& out = model_settings::kOutputs[0];
  if (!samples::Read(g_sample, in.size)) return false;
  model_settings::InputNumber* input = network::Input();
  for (int index = 0; index < in.size; ++index) {
    input[index] = Quantize<model_settings::InputNumber>(g_sample[index], in);
  }
  if (!network::Run()) return false;
  const model_settings::OutputNumber* output = network::Output();
  answer->index = Largest(output, out.size);
  answer->label = answer->index < model_settings::kLabelCount ? model_settings::kLabels[answer->index] : "";
  answer->score = Dequantize(output[answer->index], out);
  return true;
}
