/* text/weighted_prompt.h
 *
 * Prompts as AUTOMATIC1111 writes them (modules/prompt_parser.py, parse_prompt_attention): brackets weigh what is in them.
 *
 *     (word)  x 1.1      ((word))  x 1.21      (word:1.3)  x 1.3      [word]  / 1.1      \( \) \[ \] \\  the character itself
 *     BREAK   what follows begins a new chunk (pipeline/prompts.h)
 *
 * Brackets may be nested and left open. Inside brackets BREAK is a word, with a weight below zero, as there.
 *
 * What AUTOMATIC1111 takes out of a prompt before it reads the brackets is refused, not read in some other way: prompts
 * that change on the way ([from:to:when], [a|b]), several prompts at once (a AND b), networks beside the model
 * (<lora:name:1>).
 */
#ifndef ZOODIP_TEXT_WEIGHTED_PROMPT_H
#define ZOODIP_TEXT_WEIGHTED_PROMPT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct weighted_part {
    char *text; /* owned */
    double weight;
    bool is_break; /* the text is BREAK */
};

struct weighted_prompt {
    struct weighted_part *items; /* [count], at least one; neighbours differ in weight */
    int64_t count, room;
};

/* text: valid UTF-8. negative: a negative prompt, which knows neither AND nor networks. Free with weighted_prompt_free,
 * also after an error. */
struct error weighted_prompt_read(struct weighted_prompt *p, const char *text, bool negative);
void weighted_prompt_free(struct weighted_prompt *p);

/* The first part of a text that AUTOMATIC1111 would weigh and people write for that alone: "(word:1.3)" or "((word))"; its
 * bytes, or 0. */
int64_t weighted_prompt_find(const char *text, const char **part);

#endif
