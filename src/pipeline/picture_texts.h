/* pipeline/picture_texts.h
 *
 * What there is to say about one of a run's pictures: the prompt and the seed that it is drawn from, the text in its file
 * (report/parameters.h), and the command that draws it again (report/draw_command.h). All of them are drawn as
 * `zoodip generate` draws: prompt number i (from 0) with the config's seed + i, the learned word and the one that learning
 * started from alike.
 */
#ifndef ZOODIP_PIPELINE_PICTURE_TEXTS_H
#define ZOODIP_PIPELINE_PICTURE_TEXTS_H

#include "pipeline/subject.h"
#include "report/draw_command.h"

/* Prompt number `prompt` of output.prompts with the word in it. Free *text with memory_free. */
struct error picture_prompt(const struct subject *s, const char *word, int64_t prompt, char **text);

int64_t picture_seed(const struct subject *s, int64_t prompt);

/* Of the learned word's picture on a prompt; embedding [vectors, width]. Free *text with memory_free. */
struct error picture_parameters(const struct subject *s, int64_t prompt, const float *embedding, char **text);

/* The command borrows both texts, a picture_prompt and the path of the learned word's file, which it leaves out where the
 * prompt does not have that word; and the subject's. */
struct error picture_command(const struct subject *s, int64_t prompt, const char *text, const char *file,
                             struct draw_command *command);

#endif
