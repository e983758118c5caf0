"""A site over a year: chain, cooling, sun, battery, tariff and carbon, hour by hour, and the energy
closes."""
