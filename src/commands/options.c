#include "commands/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/nearest.h"
#include "files/config.h"

/* Options that every command has. */
static const char quiet_option[] = "quiet", format_option[] = "log-format";

static const struct option *find_option(const struct option *table, int64_t options, const char *name, size_t length)
{
    for (int64_t i = 0; i < options; i++)
        if (strlen(table[i].name) == length && strncmp(table[i].name, name, length) == 0)
            return &table[i];
    return NULL;
}

static struct error set_number(const struct option *o, const char *text)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value))
        return error_input("--%s: \"%s\": expected a number", o->name, text);
    *o->number = value;
    return ok();
}

static struct error set_integer(const struct option *o, const char *text)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno)
        return error_input("--%s: \"%s\": expected a whole number", o->name, text);
    if (o->low < o->high && (value < o->low || value > o->high))
        return error_input("--%s: %lld: expected %lld to %lld", o->name, value, (long long)o->low, (long long)o->high);
    *o->integer = value;
    return ok();
}

/* An option of one value may be given once. given: a bit for each place in the table that was, and one more for
 * --log-format. */
static struct error check_once(const struct option *o, int64_t place, uint64_t *given)
{
    uint64_t bit = (uint64_t)1 << place;
    bool twice = *given & bit;
    *given |= bit;
    return twice && !o->many ? error_input("--%s: is given twice", o->name) : ok();
}

/* room: for how many values. */
static struct error add_value(const struct option *o, const char *text, int room)
{
    if (!o->many->items)
        o->many->items = memory_alloc(room, sizeof *o->many->items);
    if (!o->many->items)
        return error_memory("the command line");
    o->many->items[o->many->count++] = text;
    return ok();
}

static struct error set_value(const struct option *o, const char *text, int room)
{
    if (o->text)
        *o->text = text;
    else if (o->many)
        return add_value(o, text, room);
    else if (o->number)
        return set_number(o, text);
    else
        return set_integer(o, text);
    return ok();
}

bool options_ask_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

/* Whether it is the name of a format. */
static bool set_format(const char *name)
{
    bool json = strcmp(name, "json") == 0, known = json || strcmp(name, "plain") == 0;
    if (known)
        log_set_json(json);
    return known;
}

void options_set_format(int argc, char **argv)
{
    const size_t length = strlen("--") + strlen(format_option);
    for (int i = 1; i < argc; i++) {
        bool named = strncmp(argv[i], "--", 2) == 0 && strncmp(argv[i] + 2, format_option, length - 2) == 0;
        if (named && argv[i][length] == '=')
            set_format(argv[i] + length + 1);
        else if (named && !argv[i][length] && i + 1 < argc)
            set_format(argv[i + 1]);
    }
}

/* The option's name without dashes and value. */
static void bare_name(char out[64], const char *argument)
{
    const char *name = argument + strspn(argument, "-");
    snprintf(out, 64, "%.*s", (int)strcspn(name, "="), name);
}

/* People who come from other trainers type config keys as options. */
static struct error unknown_option(const char *argument, const char *command, const struct option *table,
                                   int64_t options)
{
    char name[64];
    bare_name(name, argument);
    struct nearest best = {NULL, 0};
    nearest_try(&best, name, "help");
    nearest_try(&best, name, quiet_option);
    nearest_try(&best, name, format_option);
    for (int64_t i = 0; i < options; i++)
        nearest_try(&best, name, table[i].name);
    const char *key = find_option(table, options, "set", 3) ? config_meant(name) : NULL;
    if (best.name)
        return error_input("%s: no such option; did you mean --%s? See zoodip %s --help", argument, best.name, command);
    if (key)
        return error_input("%s: no such option; did you mean --set %s=VALUE? See zoodip %s --help", argument, key,
                           command);
    return error_input("%s: no such option; see zoodip %s --help", argument, command);
}

/* People who come from other programs leave out --set. */
static struct error surplus(const char *argument, const char *command, const struct option *table, int64_t options)
{
    char name[64];
    bare_name(name, argument);
    const char *value = strchr(argument, '=');
    const char *key = value && find_option(table, options, "set", 3) ? config_meant(name) : NULL;
    if (key)
        return error_input("%.200s: unexpected argument; did you mean --set %s%.200s? See zoodip %s --help", argument,
                           key, value, command);
    return error_input("%s: unexpected argument; see zoodip %s --help", argument, command);
}

static bool is_number(const char *argument)
{
    char *end;
    return isfinite(strtod(argument, &end)) && end > argument && !*end;
}

static bool is_option(const char *argument)
{
    return argument[0] == '-' && argument[1];
}

struct error options_read(int argc, char **argv, const struct option *table, int64_t options, const char **plain,
                          int64_t room)
{
    int64_t plain_count = 0;
    bool quiet = false;
    const char *format = "plain";
    uint64_t given = 0;
    const struct option common[] = {{.name = quiet_option, .flag = &quiet}, {.name = format_option, .text = &format}};
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        if (!is_option(argument)) {
            if (plain_count == room)
                return surplus(argument, argv[0], table, options);
            plain[plain_count++] = argument;
            continue;
        }
        const char *equals = strchr(argument, '=');
        size_t length = equals ? (size_t)(equals - argument) : strlen(argument);
        bool named = length > 2 && argument[1] == '-';
        const struct option *o = named ? find_option(table, options, argument + 2, length - 2) : NULL;
        int64_t place = o ? o - table : options;
        if (!o && named)
            o = find_option(common, sizeof common / sizeof *common, argument + 2, length - 2);
        if (!o)
            return unknown_option(argument, argv[0], table, options);
        if (o->flag && equals && !o->number)
            return error_input("--%s: takes no value", o->name);
        if (o->flag) {
            *o->flag = true;
            if (!equals && !(o->number && i + 1 < argc && is_number(argv[i + 1])))
                continue;
        }
        if (!equals && i + 1 == argc)
            return error_input("--%s: expected a value after it", o->name);
        TRY(check_once(o, place, &given));
        TRY(set_value(o, equals ? equals + 1 : argv[++i], argc));
    }
    log_set_quiet(quiet);
    return set_format(format) ? ok() : error_input("--%s: \"%s\": expected plain or json", format_option, format);
}

struct error options_start(bool resume, bool overwrite, enum start *start)
{
    *start = resume ? START_RESUME : overwrite ? START_OVERWRITE : START_NEW;
    return resume && overwrite ? error_input("--resume and --overwrite: expected one of them; the first continues what "
                                             "is in output.dir, the second begins anew")
                               : ok();
}
