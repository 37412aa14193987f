/* files/config_keys.h
 *
 * The table of a config's keys, one line each: name, kind, field, default, range, meaning. Reading and writing
 * (files/config.c) go through it; nobody else needs it. A new key is a field in files/config.h and a line here, and
 * CONFIG_KEYS counts it.
 */
#ifndef ZOODIP_FILES_CONFIG_KEYS_H
#define ZOODIP_FILES_CONFIG_KEYS_H

#include <stddef.h>

#include "files/config.h"

enum { CONFIG_TEXT_LIMIT = 4000, CONFIG_NAME_LIMIT = 128 }; /* bytes of a text; of a name with its group and zero */

enum kind {
    INTEGER,  /* int64_t */
    PAIR,     /* int64_t[2] */
    NUMBER,   /* double */
    BOOLEAN,  /* bool */
    TEXT,     /* char *, not empty */
    TEXTS,    /* struct texts; one text alone stands for a list of one */
    NAME,     /* const char *, one of `names` */
    POSITION, /* an enum: the position among `names` */
};

struct key {
    const char *name;
    enum kind kind;
    size_t offset;
    bool trains;              /* another value makes another training: part of the recipe */
    const char *fallback;     /* JSON; NULL: the key is required */
    double low, high;         /* of the number, or of how many texts; both inclusive */
    const char *const *names; /* ended by NULL */
    struct error (*check)(const struct config *config);
    const char *meaning;
};

extern const struct key config_keys[CONFIG_KEYS];

/* The key of this name, or NULL. */
const struct key *config_key_find(const char *name);

/* Whether some key's name begins with NAME and a dot. */
bool config_is_group(const char *name);

/* What follows the last dot. */
const char *config_last_part(const char *name);

/* The group that this name of none was meant to be -> out; false where none is near. */
bool config_meant_group(char out[CONFIG_NAME_LIMIT], const char *name);

#endif
