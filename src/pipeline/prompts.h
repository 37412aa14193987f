/* pipeline/prompts.h
 *
 * The ids of what a picture is drawn from: of the prompt, and of the negative prompt before it, if there is guidance. In
 * plain syntax a prompt is one chunk, and what does not fit is left out, with a warning. In AUTOMATIC1111's syntax
 * (text/weighted_prompt.h) it is as many chunks as it takes, and each id has a weight.
 *
 * A chunk of a model with 77 ids is start, 75 of the prompt's, end, and padding if there are fewer. As in AUTOMATIC1111
 * (modules/sd_hijack_clip.py, tokenize_line): where a chunk is full and one of its last 20 ids is a comma, what follows the
 * comma moves to the next; BREAK ends a chunk; a learned word is never cut. The shorter of the two prompts gets chunks of
 * the empty prompt, as with AUTOMATIC1111's setting "Pad prompt/negative prompt to be same length".
 */
#ifndef ZOODIP_PIPELINE_PROMPTS_H
#define ZOODIP_PIPELINE_PROMPTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "pipeline/words.h"

enum prompt_syntax { SYNTAX_PLAIN, SYNTAX_A1111 };

struct prompt_source {
    const char *option, *text; /* option: what gave it, for errors and warnings */
    bool negative;
};

struct prompts {
    int64_t lanes, chunks, length;
    int32_t *ids;   /* [lanes, chunks, length] */
    float *weights; /* [lanes, chunks, length]; NULL: all are 1 */
    bool padded;    /* a prompt has chunks of the empty one */
};

/* sources [lanes]; length: ids of a chunk. Notes the words that the prompts name, as words_encode does. Free with
 * prompts_free, after an error too. */
struct error prompts_read(struct prompts *p, struct words *words, const struct prompt_source *sources, int64_t lanes,
                          enum prompt_syntax syntax, int64_t length);
void prompts_free(struct prompts *p);

#endif
