/* commands/options.h
 *
 * Command lines by a table: --name VALUE (or --name=VALUE), flags, and plain arguments in order. Errors name the option
 * and the remedy, including the option that a mistyped one was probably meant to be.
 */
#ifndef ZOODIP_COMMANDS_OPTIONS_H
#define ZOODIP_COMMANDS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text.h"
#include "zo/previous.h"

/* One of text, number, integer, flag or many receives the value; `name` without the dashes. Only flags and `many` may be
 * given several times. A flag that has a number, too,
 * takes that only if one follows: --watch, --watch 5, --watch=5. */
struct option {
    const char *name;
    const char **text;
    double *number;
    int64_t *integer;
    int64_t low, high; /* the integer's range, if low < high */
    bool *flag;
    struct text_list *many; /* may be given several times; free its items with memory_free */
};

/* argv[1..]: two options that every command takes, --quiet, which silences status lines, and --log-format (base/log.h);
 * the rest fills what the table points at. `plain` [room] receives the arguments that are not options, in order; entries
 * not given stay as they are. */
struct error options_read(int argc, char **argv, const struct option *table, int64_t options, const char **plain,
                          int64_t room);

/* Before all else that may say something: lines get the format that argv[1..] asks for, errors of options_read too. */
void options_set_format(int argc, char **argv);

/* --resume and --overwrite as one; an error if both were given. */
struct error options_start(bool resume, bool overwrite, enum start *start);

/* Whether -h or --help is among argv[1..]: then nothing else counts. */
bool options_ask_help(int argc, char **argv);

#endif
