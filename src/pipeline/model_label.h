/* pipeline/model_label.h
 *
 * What the texts in pictures call a model (report/parameters.h): its name, and a hash. AUTOMATIC1111 knows a file by the
 * first 10 digits of its SHA-256. A folder has no such hash; there it is the CRC-32 of what the model is
 * (model/contents.h), 8 digits, as in a run's report.
 */
#ifndef ZOODIP_PIPELINE_MODEL_LABEL_H
#define ZOODIP_PIPELINE_MODEL_LABEL_H

#include "pipeline/pipeline.h"

struct model_label {
    char name[256]; /* of the folder, or of the file without its ending */
    char hash[16];
};

/* After pipeline_compare. The first call for a file reads all of it. */
struct error model_label_read(struct model_label *label, struct pipeline *p);

#endif
