/* model/table_root.h
 *
 * How the rows of a text encoder's token table are spread: the root of their covariance C. With w standard normal, root
 * w has C as its covariance, scaled so that the mean square of its numbers is 1, as those of w: root = C^1/2 (width /
 * trace C)^1/2, symmetric.
 */
#ifndef ZOODIP_MODEL_TABLE_ROOT_H
#define ZOODIP_MODEL_TABLE_ROOT_H

#include <stdint.h>

#include "base/error.h"
#include "base/pool.h"
#include "model/text_encoder.h"

/* Of rows [0, count), C as torch.cov has it -> root [width, width]. Rows that are all equal: the unit matrix. */
struct error table_root_find(const struct text_encoder *text, int64_t count, float *root, struct pool *pool);

#endif
