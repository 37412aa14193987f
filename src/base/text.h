/* base/text.h
 *
 * Texts from outside: of files, names and arguments. Before they are shown on a terminal, in a log, on a page or in a
 * summary that other programs read, they are made safe: valid UTF-8 without control characters.
 */
#ifndef ZOODIP_BASE_TEXT_H
#define ZOODIP_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Several texts, such as the values of an option that may be given several times. */
struct text_list {
    const char **items; /* [count], borrowed */
    int64_t count;
};

bool text_ends_with(const char *text, const char *end);

/* The text with every `what` replaced by `by`, to be freed by memory_free; NULL: out of memory. */
char *text_replace(const char *text, const char *what, const char *by);

/* Whether a text contains white space or a control character; valid UTF-8 up to where it ends. */
bool text_has_blank(const char *text);

/* How many of at most `bytes` bytes to show so that no character of UTF-8 is cut. */
int text_fitting(const char *text, int bytes);

/* A text in a column: cut at its width, in whole characters of UTF-8, and filled up with blanks. */
enum { TEXT_COLUMNS = 32, TEXT_COLUMN_SIZE = 4 * TEXT_COLUMNS + 1 };
void text_column(char out[TEXT_COLUMN_SIZE], const char *text, int columns);

/* The first few of many names: "a.webp, b.tiff and 12 more". Starts zeroed. */
struct text_few {
    char text[320];
    int64_t count; /* of all names */
};
void text_few_add(struct text_few *few, const char *name);
void text_few_end(struct text_few *few);

/* Replaces every byte of a control character, and every byte that is not valid UTF-8 (such as a character that was
 * cut), by '?'. */
void text_show_safely(char *text);

/* A number in as few digits as lead back to it: 7.5, 0.1, 7. */
enum { TEXT_NUMBER = 32 };
void text_number(char out[TEXT_NUMBER], double value);

/* The text as a string of JSON, with its quotes, safe in the same way and without line breaks of any kind. It is cut, in
 * whole characters, where `size` (3 or more) ends. */
void text_as_json(char *out, size_t size, const char *text);

#endif
