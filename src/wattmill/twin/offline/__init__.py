"""Throughput and energy of engines that never wait for work: the step-time law on offline measurements."""
