/* Amounts for people to read: the same in the log as in what grokctl prints. */
#pragma once

#define HUMAN_BYTES 32
/* "12.4 MB", "314.0 G", "720 B": up to four digits and a decimal prefix before the unit, which may
 * be "". Returns buffer. */
const char *human_amount(double value, const char *unit, char buffer[HUMAN_BYTES]);
