/* files/config_value.h
 *
 * One key's value between JSON and its field of struct config, by the key's kind: in, checked against what the key
 * allows; out, so that it reads back as the same value; and freed. Only files/config.c uses it.
 *
 * Errors say what is wrong and what was expected, but not yet which key: "is 5, expected a whole number from 1 to 2".
 */
#ifndef ZOODIP_FILES_CONFIG_VALUE_H
#define ZOODIP_FILES_CONFIG_VALUE_H

#include "files/config_keys.h"

struct cJSON;

/* Replaces the field's value, if this one is allowed. */
struct error config_value_set(struct config *config, const struct key *key, const struct cJSON *value);

/* The field's value as new JSON, for cJSON_Delete; NULL when out of memory. */
struct cJSON *config_value_json(const struct config *config, const struct key *key);

/* Frees what the field owns; a text is then NULL, a list empty. */
void config_value_clear(struct config *config, const struct key *key);

/* Frees a list and its texts; it is then empty. */
void texts_free(struct texts *texts);

#endif
