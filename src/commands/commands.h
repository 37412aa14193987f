/* commands/commands.h
 *
 * The subcommands, one file each. A new one is a struct command in its file, a line here and one in main.c's table.
 */
#ifndef ZOODIP_COMMANDS_COMMANDS_H
#define ZOODIP_COMMANDS_COMMANDS_H

#include <stdbool.h>

#include "base/error.h"
#include "cluster/comm.h"
#include "device/device.h"

/* What a command runs on: the ranks, and the kinds of device that this program was built with. */
struct host {
    struct comm *comm;
    const struct device_kind *devices;
};

/* The most bytes of a jobs file. */
enum { JOBS_FILE_LIMIT = 64 << 20 };

struct command {
    const char *name, *meaning;
    void (*help)(void); /* prints its help on stdout */

    /* argv[0] is the name. Returns the same on all ranks; rank 0 prints it. */
    struct error (*run)(int argc, char **argv, const struct host *host);
    bool stops; /* after a signal, with everything saved */
};

extern const struct command command_train, command_run, command_generate, command_quantize, command_inspect,
    command_status, command_bench;

#endif
