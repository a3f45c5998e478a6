<?php
/*
 * Sends each line of the standard input as a message, and prints its id once the server has it on its disk.
 *
 * usage: php send.php [ADDRESS [QUEUE]] < LINES
 */

declare(strict_types=1);

require __DIR__ . '/phpmq.php';

[, $address, $queue] = $argv + [1 => 'tcp://127.0.0.1:9100', 'webhooks'];

// A script may wait for a server that is being restarted.
$client = new PhpmqClient($address, 30.0);
$count = 0;
try {
    while (($line = fgets(STDIN)) !== false) {
        echo $client->send($queue, rtrim($line, "\r\n")), "\n";
        $count++;
    }
} catch (PhpmqUnreachable | PhpmqRefused $error) {
    fwrite(STDERR, "sent $count lines, then: {$error->getMessage()}\n");
    exit(1);
}
