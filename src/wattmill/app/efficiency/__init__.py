"""Token factory efficiency: where what is paid for goes, in hours and in joules, from recorded facts."""
