<?php
/*
 * What a web request does: it sends, but lets nobody wait for a server that is away, and loses nothing.
 */

declare(strict_types=1);

require __DIR__ . '/phpmq.php';

/** Hand a job over: to the server, or else to a file whose lines send.php sends later. False if neither takes it. */
function enqueue(string $address, string $queue, string $job, string $key, string $file): bool
{
    try {
        (new PhpmqClient($address, 0.5))->send($queue, $job, ['key' => $key]);
        return true;
    } catch (PhpmqUnreachable | PhpmqRefused $error) {
        error_log($error->getMessage());
        return @file_put_contents($file, "$job\n", FILE_APPEND | LOCK_EX) !== false;
    }
}

$order = ['number' => (int) ($_GET['number'] ?? 17)];
$job = json_encode(['url' => 'http://127.0.0.1:8080/orders', 'data' => $order]);
$address = getenv('PHPMQ_ADDRESS') ?: 'tcp://127.0.0.1:9100';
$file = getenv('PHPMQ_FILE') ?: sys_get_temp_dir() . '/webhooks.jobs';
if (!enqueue($address, 'webhooks', $job, "order $order[number]", $file)) {
    http_response_code(503);
}
