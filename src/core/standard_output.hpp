// Standard output, whose loss does not go unnoticed.
#pragma once

#include <string_view>

namespace moesaic::core {

/// Writes at once. Throws core::Error if that fails, as with a full disk (ExitCode::out_of_resources) or a closed pipe.
void print(std::string_view text);

}  // namespace moesaic::core
