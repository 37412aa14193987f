#include "commands/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

static struct error set_value(const struct option *o, const char *text)
{
    if (o->text)
        *o->text = text;
    else if (o->many)
        o->many->items[o->many->count++] = text;
    else if (o->number)
        return set_number(o, text);
    else
        return set_integer(o, text);
    return ok();
}

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

struct error options_read(int argc, char **argv, const struct option *table, int64_t options, bool *help,
                          const char **plain, int64_t room, int64_t *plain_count)
{
    *plain_count = 0;
    *help = asks_for_help(argc, argv);
    if (*help)
        return ok();
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        if (strncmp(argument, "--", 2) != 0) {
            if (*plain_count == room)
                return error_input("%s: unexpected argument; see zoodip %s --help", argument, argv[0]);
            plain[(*plain_count)++] = argument;
            continue;
        }
        const char *equals = strchr(argument, '=');
        size_t length = equals ? (size_t)(equals - argument - 2) : strlen(argument + 2);
        const struct option *o = find_option(table, options, argument + 2, length);
        if (!o)
            return error_input("%s: no such option; see zoodip %s --help", argument, argv[0]);
        if (o->flag && equals)
            return error_input("--%s: takes no value", o->name);
        if (o->flag) {
            *o->flag = true;
            continue;
        }
        if (!equals && i + 1 == argc)
            return error_input("--%s: expected a value behind it", o->name);
        TRY(set_value(o, equals ? equals + 1 : argv[++i]));
    }
    return ok();
}
