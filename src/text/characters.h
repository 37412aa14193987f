/* text/characters.h
 *
 * Unicode as CLIP's tokenizer sees it: NFC, lower case, and letters, numbers and spaces for its pattern.
 *
 * utf8proc knows one version of Unicode; transformers mixes three: 9.0 for NFC, 16 for character classes and 17 for
 * lower case. Small tables beside utf8proc (2.8: 15.0) make up the difference, so that the results are transformers'
 * for every character.
 */
#ifndef ZOODIP_TEXT_CHARACTERS_H
#define ZOODIP_TEXT_CHARACTERS_H

#include <stdint.h>

#include "base/error.h"

enum character_kind { CHARACTER_SPACE, CHARACTER_LETTER, CHARACTER_NUMBER, CHARACTER_OTHER };

/* \s, \p{L}, \p{N} or none of them. */
enum character_kind character_kind(int32_t c);

/* The character at the beginning of a valid UTF-8 text, and how many bytes it has. */
int64_t character_read(const char *text, int32_t *c);

/* Writes a character as UTF-8, at most 4 bytes; returns how many. */
int64_t character_write(char *to, int32_t c);

/* NFC of a text, memory_free'd. A text that is not UTF-8 is the user's mistake. */
struct error characters_compose(const char *text, char **composed);

/* NFC, runs of white space to one blank, lower case; memory_free'd. A text that is not UTF-8 is the user's mistake. */
struct error characters_normalize(const char *text, char **normal);

#endif
