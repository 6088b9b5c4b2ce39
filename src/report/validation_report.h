// A validation as documents: JSON, CSV, and the plot of distortion against bits.
#ifndef TURBOQUANT_REPORT_VALIDATION_REPORT_H_
#define TURBOQUANT_REPORT_VALIDATION_REPORT_H_

#include <string>

#include "eval/validation.h"

namespace turboquant {

// Version of the JSON document.
inline constexpr int kValidationSchemaVersion = 1;

std::string ValidationJson(const ValidationResult& result);
// One line for each check and each codec; the column `table` tells them apart.
std::string ValidationCsv(const ValidationResult& result);
// Left: distortion against bits per value beside Shannon's bound. Right: the distance to it,
// sorted.
std::string ValidationSvg(const ValidationResult& result);

// 10 log10 of distortion over Shannon's: 6.02 dB are one bit.
double DecibelsAboveShannon(const RatePoint& point);

}  // namespace turboquant

#endif  // TURBOQUANT_REPORT_VALIDATION_REPORT_H_
