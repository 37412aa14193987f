/* report/draw_command.h
 *
 * The command that draws a run's picture again, to the same pixels on the same kind of device: `zoodip generate` with
 * all that the picture depends on. It is for a POSIX shell, in the folder in which the run was started, since a run's
 * paths may be relative.
 */
#ifndef ZOODIP_REPORT_DRAW_COMMAND_H
#define ZOODIP_REPORT_DRAW_COMMAND_H

#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

struct draw_command {
    const char *model, *device;
    const char *tokenizer, *prediction; /* NULL: the model's own */
    const char *embedding;              /* a learned word's file; NULL: the prompt has none */
    const char *prompt, *sampler;
    int64_t steps, seed;
    int64_t width, height; /* in pixels */
    double guidance;
    int bits; /* of text encoder and UNet */
};

/* On a page, to be unfolded and copied. output: the name of the picture's file. */
struct error draw_command_put(FILE *out, const struct draw_command *command, const char *output);

#endif
