// Checked conversion of JavaScript values to C++ values.

#ifndef ISTHMUS_NATIVE_ARGUMENTS_H_
#define ISTHMUS_NATIVE_ARGUMENTS_H_

#include <napi.h>

#include <cstdint>
#include <optional>

namespace isthmus {

// A safe, non-negative integer: 0 to 2^53 - 1. `name` appears in the message of the error.
uint64_t Integer(const Napi::Value& value, const char* name);

// A number in the range of descriptors. Whether the descriptor is open is left to the kernel.
int Descriptor(const Napi::Value& value, const char* name);

// A boolean property of an optional object; false where either is absent.
bool Option(const Napi::Value& options, const char* name);

// A property of an optional object that is an integer as of Integer(), if it is there.
std::optional<uint64_t> IntegerOption(const Napi::Value& options, const char* name);

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_ARGUMENTS_H_
