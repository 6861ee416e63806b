"""People are drawn from the seed and their number alone, and share colours."""

from __future__ import annotations

from collections import Counter

from data_tools.synthetic.people import draw_person


def test_a_person_depends_on_seed_and_number_alone():
    assert draw_person(7, 3) == draw_person(7, 3)
    assert draw_person(7, 3) != draw_person(8, 3)
    assert draw_person(7, 3).top != draw_person(7, 4).top


def test_people_share_colours_and_differ_in_detail():
    people = [draw_person(1, number) for number in range(1, 121)]
    colours = Counter((person.top.colours[0], person.bottom.colours[0]) for person in people)
    details = {(p.top.pattern, p.top.colours, p.bottom, p.cut, p.bag, p.hair_style) for p in people}
    assert len(colours) <= 24
    assert len(details) == 120
