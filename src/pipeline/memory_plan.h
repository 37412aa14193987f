/* pipeline/memory_plan.h
 *
 * How much GPU memory a run will need, found by performing the run on a simulated GPU (device_simulate): the same code
 * allocates and frees the same tensors, so plan and reality agree to the byte. The CUDA context, the kernels' code and
 * NCCL's buffers are not ours and come on top.
 */
#ifndef ZOODIP_PIPELINE_MEMORY_PLAN_H
#define ZOODIP_PIPELINE_MEMORY_PLAN_H

#include <stdio.h>

#include "cluster/comm.h"
#include "device/device.h"
#include "files/config.h"
#include "pipeline/generation.h"
#include "pipeline/subject.h"

enum phase { PHASE_ENCODE, PHASE_TRAIN, PHASE_PICTURES, PHASES };

struct memory_plan {
    struct memory_use phases[PHASES]; /* the peak of each */
    int64_t most;                     /* the largest of their sums */
};

/* What a config's run would need, for those who ask before they run it. */
struct config_plan {
    struct memory_plan on; /* what it needs of a GPU, from the first phase to the last */
    double lr;             /* that it takes, and whether that was auto */
    bool rate_was_auto;
    int64_t vectors;                    /* of the word, which the initializer's file may say */
    enum derivative takes, takes_there; /* the zo.derivative that it takes on the CPU, and on a GPU */
    int64_t difference;                 /* bytes of a step's arena by differences, on one rank of the CPU */
    int64_t tangent;                    /* the same by tangents; 0 with zo.sides 2 */
};

/* Alone: the communicator has one rank. */
struct error memory_plan_config(struct config_plan *plan, const char *config, const struct text_list *sets,
                                struct comm *comm);

/* Of a queue's job that has been read: networks are loaded while pictures are encoded and generated. Each phase of the
 * plan grows to what this job needs. Collective in the group; the plan is this rank's. */
struct error memory_plan_job(struct memory_plan *plan, const struct subject *s);

/* "encode pictures" and so on. */
const char *memory_plan_phase(enum phase phase);

/* A table, in bytes and megabytes. */
void memory_plan_print(const struct memory_plan *plan, FILE *to);

/* ERROR_BAD_INPUT, naming what to lower, if the device has less memory left than the plans of all ranks on it need;
 * else logs the plan. Collective. */
struct error memory_plan_fits(const struct memory_plan *plan, struct device *device, struct comm *comm);

/* The plan of a run that is about to begin with this subject, and memory_plan_fits; does nothing without a GPU.
 * Collective. */
struct error memory_plan_check(struct memory_plan *plan, const struct subject *s, enum phase last);

/* The same for pictures that one rank is about to generate in a pipeline that was opened for `choice`. *bytes: what
 * they need, 0 without a GPU. */
struct error memory_plan_generation(const struct generation *g, const struct pipeline_choice *choice, int64_t *bytes);

#endif
