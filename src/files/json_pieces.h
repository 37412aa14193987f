/* files/json_pieces.h
 *
 * A large JSON text, such as the summary of 100,000 jobs, piece by piece: the members of an object or the items of a list,
 * one after the other, without a tree of all of them. Each piece is then parsed by itself; here only strings and brackets
 * are looked at, so a piece may still be no JSON.
 */
#ifndef ZOODIP_FILES_JSON_PIECES_H
#define ZOODIP_FILES_JSON_PIECES_H

#include <stdbool.h>
#include <stdint.h>

/* Part of a text. */
struct json_piece {
    const char *text;
    int64_t size;
};

/* Its fields are private. */
struct json_pieces {
    const char *at, *end;
    bool object, first, whole;
};

/* Of a text that is one object or list; false if it does not begin as one. */
bool json_pieces_open(struct json_pieces *p, struct json_piece text);

/* The next member's value, with its key (as it is written, without the quotes), or the next item, with an empty key.
 * False when there are no more, or where the text is not JSON. */
bool json_pieces_next(struct json_pieces *p, struct json_piece *key, struct json_piece *value);

/* After that: whether the text was read to its closing bracket. */
bool json_pieces_whole(const struct json_pieces *p);

/* Whether a piece is just this text. */
bool json_piece_is(struct json_piece piece, const char *text);

#endif
