<?php
/*
 * A worker: takes jobs from a queue and posts each to a web address.
 *
 * usage: php worker.php [ADDRESS [QUEUE [ATTEMPTS [PAUSE]]]]
 *
 * A job is JSON, {"url": "https://...", "data": ...}. When it fails it comes back after PAUSE seconds, then after twice as long each
 * time; after so many ATTEMPTS it becomes a dead letter.
 */

declare(strict_types=1);

require __DIR__ . '/phpmq.php';

/** A job that another attempt cannot help. */
class Hopeless extends RuntimeException
{
}

/** Do one job. If this throws, the job failed. */
function work(PhpmqDelivery $message): void
{
    $job = json_decode($message->body, true);
    if (!is_array($job) || !is_string($job['url'] ?? null) || !preg_match('~^https?://~', $job['url'])) {
        throw new Hopeless('this is no JSON with the url of a web address');
    }
    // A message may be delivered twice. Its id is the same each time, so whoever gets this can tell.
    $headers = ['Content-Type: application/json', "Idempotency-Key: $message->id"];
    if (preg_match('/^[0-9a-f-]+$/D', $message->headers['traceparent'] ?? '')) {
        $headers[] = 'traceparent: ' . $message->headers['traceparent'];
    }
    $request = ['method' => 'POST', 'timeout' => 10, 'header' => $headers, 'content' => json_encode($job['data'] ?? null)];
    if (@file_get_contents($job['url'], false, stream_context_create(['http' => $request])) === false) {
        throw new RuntimeException(error_get_last()['message']);
    }
}

/** Tell the server what came of a job: what the worker's log says. */
function settle(PhpmqClient $client, PhpmqDelivery $message, ?Throwable $error, int $attempts, float $pause): string
{
    if ($error === null) {
        return $client->acknowledge($message) ? 'is done' : 'is done, but may come again';
    }
    $reason = "attempt $message->attempts: {$error->getMessage()}";
    if ($error instanceof Hopeless || $message->attempts >= $attempts) {
        $client->deadLetter($message, $reason);
        return "is a dead letter, $reason";
    }
    $delay = min($pause * 2 ** ($message->attempts - 1), 300.0);
    $client->requeue($message, $delay);
    return "comes back in $delay s, $reason";
}

[, $address, $queue, $attempts, $pause] = $argv + [1 => 'tcp://127.0.0.1:9100', 'webhooks', '5', '1'];

// SIGTERM lets the job at hand be finished. Without the extension pcntl it ends the worker at once: then the server gives the job to
// another one.
$stop = false;
if (function_exists('pcntl_async_signals')) {
    pcntl_async_signals(true);
    foreach ([SIGTERM, SIGINT] as $signal) {
        pcntl_signal($signal, function () use (&$stop): void {
            $stop = true;
        });
    }
}

$client = new PhpmqClient($address);
$client->consume($queue);
while (!$stop) {
    try {
        $message = $client->receive(1.0);
    } catch (PhpmqUnreachable $error) {
        fwrite(STDERR, $error->getMessage() . "\n");
        sleep(1);
        continue;
    }
    if ($message === null) {
        continue;
    }
    $error = null;
    try {
        work($message);
    } catch (Throwable $error) {
        // It is settled below.
    }
    if ($stop) {
        // Otherwise the next message came, and this would be one of its attempts.
        $client->consume($queue, 0);
    }
    echo "$message->id ", settle($client, $message, $error, (int) $attempts, (float) $pause), "\n";
}
$client->close();
