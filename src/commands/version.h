/* commands/version.h
 *
 * zoodip --version: what this program was built with and what it finds here.
 */
#ifndef ZOODIP_COMMANDS_VERSION_H
#define ZOODIP_COMMANDS_VERSION_H

#include <stdio.h>

#include "device/device.h"

void version_print(FILE *stream, const struct device_kind *devices);

#endif
