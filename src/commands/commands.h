/* commands/commands.h
 *
 * The subcommands. Each gets its own arguments (argv[0] is its name) and the communicator, and returns what main prints
 * on rank 0. A command's --help goes to stdout.
 */
#ifndef ZOODIP_COMMANDS_COMMANDS_H
#define ZOODIP_COMMANDS_COMMANDS_H

#include "base/error.h"
#include "cluster/comm.h"

struct error command_train(int argc, char **argv, struct comm *comm);
struct error command_run(int argc, char **argv, struct comm *comm);
struct error command_generate(int argc, char **argv, struct comm *comm);
struct error command_quantize(int argc, char **argv, struct comm *comm);
struct error command_inspect(int argc, char **argv, struct comm *comm);
struct error command_bench(int argc, char **argv, struct comm *comm);

#endif
