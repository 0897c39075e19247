"""This node's place in the mesh: enrolment, lease, snapshot, certificate."""
