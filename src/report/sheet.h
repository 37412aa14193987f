/* report/sheet.h
 *
 * grid.png, for people who open a run's folder: what the page shows, as one picture with labels. Up to eight photos;
 * below them the start word's pictures, the learned word's, and the prompts; of more than eight prompts eight beside
 * one another, and so on.
 */
#ifndef ZOODIP_REPORT_SHEET_H
#define ZOODIP_REPORT_SHEET_H

#include "report/report.h"

/* FOLDER/grid.png. side: of a picture; it is doubled until labels can be read under it. */
struct error sheet_write(const char *folder, const struct report_pictures *pictures, int64_t side);

#endif
