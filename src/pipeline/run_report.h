/* pipeline/run_report.h
 *
 * The page about a run that has come to its end, report.html in its folder: pictures, curve, config, and the facts that
 * tell this run from others, by contents: files may be moved and renamed.
 */
#ifndef ZOODIP_PIPELINE_RUN_REPORT_H
#define ZOODIP_PIPELINE_RUN_REPORT_H

#include "base/error.h"
#include "pipeline/learning.h"
#include "pipeline/pictures.h"

/* On rank 0, after the word was written, whose CRC-32 the page has. */
struct error run_report_write(const struct learning *l, const struct pictures *pictures);

#endif
