import pickle

from ur2.errors import NotFiniteError


def test_a_refused_step_keeps_its_samples_on_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(NotFiniteError("it stopped", ("a", "b"))))
    assert str(error) == "it stopped"
    assert error.sample_ids == ("a", "b")
