// What this build is.
#ifndef TURBOQUANT_CLI_BUILD_INFO_H_
#define TURBOQUANT_CLI_BUILD_INFO_H_

namespace turboquant {

const char* BuildVersion();
// As `git describe --always --dirty` said when it was built; "unknown" outside of a checkout.
const char* BuildCommit();

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_BUILD_INFO_H_
