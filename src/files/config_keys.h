/* files/config_keys.h
 *
 * The table of a config's keys, one line each: name, kind, field, default, range, meaning. Only files/config.c and
 * files/config_value.c use it. To add a key, add a field in files/config.h and a line to the table in config_keys.c,
 * and raise CONFIG_KEYS.
 */
#ifndef ZOODIP_FILES_CONFIG_KEYS_H
#define ZOODIP_FILES_CONFIG_KEYS_H

#include <stddef.h>

#include "files/config.h"

enum { CONFIG_TEXT_LIMIT = 4000, CONFIG_NAME_LIMIT = 128 }; /* bytes of a text; of a name with its group and the zero */

enum kind {
    INTEGER,  /* int64_t */
    PAIR,     /* int64_t[2] */
    NUMBER,   /* double */
    BOOLEAN,  /* bool */
    TEXT,     /* char *, not empty */
    TEXTS,    /* struct texts; a single text stands for a list of one */
    NAME,     /* const char *, one of `names` */
    POSITION, /* an enum: the position among `names` */
};

struct key {
    const char *name;
    enum kind kind;
    size_t offset;
    bool trains;              /* changing it changes the training: part of the recipe. Not a path, see files/origin.h */
    const char *fallback;     /* JSON; NULL: the key is required */
    double low, high;         /* of the number, or of how many texts; both inclusive */
    const char *const *names; /* NAME, POSITION: what is allowed, ended by NULL; or */
    const char *(*name_at)(int position);
    struct error (*check)(const struct config *config);
    const char *zero;   /* INTEGER, NUMBER: a text that stands for 0, which `low` leaves out; NULL: none */
    const char *before; /* JSON: what all runs were made with before the key existed, for recipes without it */
    const char *meaning;
};

extern const struct key config_keys[CONFIG_KEYS];

/* The allowed value at a position of a NAME or POSITION; NULL after the last. */
const char *config_key_value(const struct key *key, int position);

/* The key of this name, or NULL. */
const struct key *config_key_find(const char *name);

/* Whether some key's name begins with NAME and a dot. */
bool config_is_group(const char *name);

/* The part after the last dot. */
const char *config_last_part(const char *name);

/* The group that an unknown group's name was probably meant to be -> out; false if none is near. */
bool config_meant_group(char out[CONFIG_NAME_LIMIT], const char *name);

#endif
