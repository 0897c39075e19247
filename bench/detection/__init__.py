"""How soon what goes wrong at one node is found in a real mesh: `python -m bench.detection`.

A mesh is three nodes as `bridgectl up` makes them, with real engines and a small model, under short chats
through node1 at a steady rate. In each round one thing happens to node3 (`faults/`, a file each); then it is
undone, and all has to be well again before the next. Several meshes run side by side (`plan`).

* In band: node1 counts an attempt at node3 that failed, or passes it over; or node3 itself says on its own
  page that something is wrong, or keeps its engine out.
* Out of band: the registry says so: an instance that is not well or off the ring, an alert, a concern.

Each fault says which of these signs count for it, so that one is not found by the traces of another. Beside
it a fixed threshold of the kind that people write, on the same run: when its condition was first true at a
scrape (every 15 s), and its `for` after that. A fault ends as soon as it was found, so of a threshold that
had to wait longer the time is what it would have needed at the least.
"""
