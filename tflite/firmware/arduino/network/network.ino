// Classifies samples on an Arduino and prints what it finds; see ../../README.md.
#include <TensorFlowLite.h>

#include "classify.h"
#include "network.h"

void setup() {
  Serial.begin(115200);
  while (!Serial && millis() < 5000) {
  }
  if (!ClassifierBegin()) {
    Serial.println("The network could not be started.");
    while (true) delay(1000);
  }
  Serial.print("Arena used: ");
  Serial.print(static_cast<unsigned>(network::UsedArenaBytes()));
  Serial.println(" bytes");
}

void loop() {
  Answer answer;
  const unsigned long began = micros();
  if (Classify(&answer)) {
    const unsigned long took = micros() - began;
    Serial.print(answer.index);
    Serial.print(' ');
    Serial.print(answer.label);
    Serial.print(' ');
    Serial.print(answer.score, 3);
    Serial.print("  ");
    Serial.print(took);
    Serial.println(" us");
  }
  delay(500);
}
