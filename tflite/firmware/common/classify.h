// One sample in, one class out: what both skeletons do in their loops.
#pragma once

struct Answer {
  int index;           // of the class
  const char* label;   // its name, or an empty text
  float score;         // the network's own output for it
};

// Loads the network and prepares the sensor. False: the log says why.
bool ClassifierBegin();

// Reads a sample and classifies it. False: no sample was ready, or the inference failed.
bool Classify(Answer* answer);
