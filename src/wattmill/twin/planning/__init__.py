"""The planner: from a demand to the factory that meets it, what a token costs there, and how sure that is.

`arithmetic` has the few laws that every plan rests on, `claims` holds published sums against them, `demand`
says what is wanted, `options` which pools could do it, `programme` chooses by a mixed-integer programme, and
`uncertainty` says how sure the answer is. Nothing here touches the world.
"""
