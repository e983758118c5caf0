"""What no schedule can beat: a lower bound on dollars plus the worth of seconds, with shadow prices.

`terms` says what each request uses at each place at the least, `certificate` turns any prices into a valid
bound (weak duality, no solver involved), `lp` finds good prices with HiGHS, `ascent` better ones.
"""
