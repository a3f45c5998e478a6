"""
The same work as a script, without a reactor.

Run it with: python script.py ADDRESS
"""

import sys

from phpmq.blocking import connect

address = sys.argv[1] if len(sys.argv) > 1 else "tcp:127.0.0.1:9100"
with connect(address) as queue_client:
    # Ends when nothing came for two seconds; without a timeout it never ends.
    for delivery in queue_client.consume("images", window=1, timeout=2):
        if not delivery.body:
            delivery.dead_letter("the image is empty")
            continue
        queue_client.send("thumbnails", delivery.body[:10], level="synced", key=f"thumbnail of {delivery.id}")
        delivery.ack()
        print(f"attempt {delivery.attempts} of {delivery.id} is done")
