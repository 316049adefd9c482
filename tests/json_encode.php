<?php
// Reads one JSON text a line; answers each with a line of base64 texts, or "-" for what PHP cannot
// read: json_encode by its defaults, and the same value spelled as differently as PHP can.
$otherwise = JSON_PRETTY_PRINT | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE
    | JSON_UNESCAPED_LINE_TERMINATORS;
while (($line = fgets(STDIN)) !== false) {
    $value = json_decode($line);
    if (json_last_error() !== JSON_ERROR_NONE) {
        echo "-\n";
        continue;
    }
    echo base64_encode(json_encode($value)), ' ', base64_encode(json_encode($value, $otherwise)), "\n";
}
