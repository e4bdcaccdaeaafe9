// Classifies samples on an ESP32 and prints what it finds; see ../../README.md.
#include <cstdio>

#include "classify.h"
#include "esp_timer.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "network.h"

extern "C" void app_main() {
  if (!ClassifierBegin()) {
    std::printf("The network could not be started.\n");
    return;
  }
  std::printf("Arena used: %u bytes\n", static_cast<unsigned>(network::UsedArenaBytes()));
  while (true) {
    Answer answer;
    const int64_t began = esp_timer_get_time();
    if (Classify(&answer)) {
      const int64_t took = esp_timer_get_time() - began;
      std::printf("%d %s %.3f  %lld us\n", answer.index, answer.label,
                  static_cast<double>(answer.score), static_cast<long long>(took));
    }
    vTaskDelay(pdMS_TO_TICKS(500));
  }
}
