/* pipeline/derivative.h
 *
 * Which derivative a run takes: zo.derivative as its config says, or, where that is auto, by the one rule of
 * derivative_choose. It is decided once, before anything is read for the run; from then on the config holds
 * DERIVATIVE_DIFFERENCE or DERIVATIVE_TANGENT, and so do recipe, checkpoints and results.
 */
#ifndef ZOODIP_PIPELINE_DERIVATIVE_H
#define ZOODIP_PIPELINE_DERIVATIVE_H

#include <stdbool.h>

#include "base/error.h"
#include "files/config.h"
#include "pipeline/pipeline.h"
#include "zo/previous.h"

/* What the choice depends on besides the config. */
struct derivative_facts {
    bool tangents_pay; /* they take less time (device_tangents_pay) */
    int tangent_bits;  /* in which they would be multiplied */
    bool gpu;
    enum derivative checkpoint; /* of the run that is continued; DERIVATIVE_AUTO: there is none */
    int64_t tangents;           /* its quant.tangents, which a config with auto takes over */
};

/* Replaces auto in config->zo.derivative: by the checkpoint's; by differences where zo.sides is 2; else by tangents if
 * they take less time. *why: the reason of auto's choice, a static text; NULL if the config chose. ERROR_BAD_INPUT names
 * a choice that is not the checkpoint's. */
struct error derivative_choose(struct config *config, const struct derivative_facts *facts, const char **why);

/* The bits in which the run's tangents are multiplied: quant.tangents, but 32 for 16 on the CPU; for auto 16 on a
 * GPU, on the CPU 8 if the pipeline's weights have 8 bits and its processor products of codes, else 32. 32 with
 * differences. */
int tangent_bits(const struct config *config, const struct pipeline *p);

/* The same for a run that begins in a pipeline, START_RESUME with the checkpoints in output.dir, which rank 0 reads.
 * Collective in the group; each rank has read its config. */
struct error derivative_settle(struct config *config, struct pipeline *p, enum start start, const char **why);

/* What auto will take where there is no checkpoint. */
enum derivative derivative_expected(const struct config *config, const struct pipeline *p);

/* The derivative of the run that has left FOLDER: by its newest intact checkpoint; DERIVATIVE_AUTO if there is none. */
struct error derivative_of_run(const char *folder, enum derivative *derivative);

/* Logs which one it is, and how tangents are multiplied. For rank 0 of those who learn. */
void derivative_log(const struct config *config, const struct pipeline *p, const char *why);

#endif
