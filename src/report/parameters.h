/* report/parameters.h
 *
 * What a generated picture says about itself: the text of its PNG's chunk `parameters`, as AUTOMATIC1111 writes and reads
 * it (modules/processing.py, create_infotext):
 *
 *     PROMPT
 *     Negative prompt: NEGATIVE
 *     Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 1, Size: 512x512, Model hash: 0123456789,
 *     Model: NAME, TI hashes: "sks: 0123456789ab", Version: zoodip 1.0     (all on one line)
 *
 * It finds the same settings there, but its random numbers are others, so that it draws another picture from them.
 */
#ifndef ZOODIP_REPORT_PARAMETERS_H
#define ZOODIP_REPORT_PARAMETERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct parameters {
    const char *prompt, *negative; /* negative: "" for none */
    const char *sampler;           /* its label, such as "DPM++ 2M Karras" */
    const char *schedule;          /* how sigmas are spread, such as "Karras"; NULL: as AUTOMATIC1111 does by itself */
    int64_t steps, seed;
    const char *latents; /* the name of the file with start latents, in place of the seed; NULL: none */
    int64_t width, height;
    double guidance;
    int bits; /* of text encoder and UNet; 0: as stored */
    const char *model, *model_hash;
    const char *word_hashes; /* "sks: 0123456789ab, mug: ..." of the words in the prompts; "" for none */
    bool plain;              /* brackets in the prompts are characters like others */
    bool padded;             /* the shorter prompt has chunks of the empty one */
};

/* Free *text with memory_free. */
struct error parameters_text(const struct parameters *p, char **text);

#endif
