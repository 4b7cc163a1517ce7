"""Settings: what the environment may say."""

from __future__ import annotations

import pytest

from digits.decoding import Limits
from digits.settings import FORM_BYTES, Settings, SettingsError, load


def test_nothing_set_means_the_defaults_and_other_variables_are_not_ours() -> None:
    assert load({}) == load({"PATH": "/bin", "DIGITS_MODEL": "  "}) == Settings()


def test_what_kubernetes_tells_about_a_service_called_digits_is_no_setting_and_no_mistake() -> None:
    links = {
        "DIGITS_SERVICE_HOST": "10.0.0.1",
        "DIGITS_PORT": "tcp://10.0.0.1:3000",
        "DIGITS_PORT_3000_TCP": "tcp://10.0.0.1:3000",
        "DIGITS_PORT_3000_TCP_PROTO": "tcp",
        "DIGITS_CANARY_SERVICE_HOST": "10.0.0.2",
        "DIGITS_CANARY_SERVICE_PORT_HTTP": "3000",
        "DIGITS_CANARY_PORT": "tcp://10.0.0.2:3000",
        "DIGITS_CANARY_PORT_3000_TCP_ADDR": "10.0.0.2",
    }
    assert load(links) == Settings()


def test_values_are_read_as_what_they_are() -> None:
    got = load(
        {
            "DIGITS_MODEL": "digits:abc",
            "DIGITS_MAX_BYTES": "5 MiB",
            "DIGITS_TIMEOUT": "2.5",
            "DIGITS_WORKERS": "3",
            "DIGITS_CORS_ORIGINS": "https://a.example, http://localhost:8080",
            "DIGITS_ACCESS_LOG": "all",
        }
    )
    assert (got.model, got.max_bytes, got.timeout, got.workers) == ("digits:abc", 5 * 2**20, 2.5, 3)
    assert got.cors_origins == ("https://a.example", "http://localhost:8080")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", "two"),
        ("WORKERS", "-1"),
        ("WORKERS", "1.5"),
        ("TIMEOUT", "0"),
        ("TIMEOUT", "nan"),
        ("TIMEOUT", "inf"),
        ("MAX_BYTES", "1 parsec"),
        ("MAX_BATCH_SIZE", "0"),
        ("MODEL", "digits: latest"),
        ("CORS_ORIGINS", "example.org"),
        ("CORS_ORIGINS", "https://*.example.org"),  # browsers send one name, in small letters, and nothing behind it
        ("CORS_ORIGINS", "https://Example.org"),
        ("CORS_ORIGINS", "https://example.org?x"),
        ("CORS_ORIGINS", "https://somebody@example.org"),
        ("ACCESS_LOG", "yes"),
        ("MAX_BYTE", "1"),
        ("PORT", "8080"),  # that is BentoML's to be told
        ("MAX_BUFFERED_BYTES", "1m"),
    ],
)
def test_a_wrong_value_or_name_is_one_line_that_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load({f"DIGITS_{name}": value})
    assert f"DIGITS_{name}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_as_many_bytes_as_the_longest_request_may_have_with_its_form_can_be_held_at_once() -> None:
    longest = {"DIGITS_MAX_BYTES": "64k", "DIGITS_MAX_BATCH_BYTES": "64k"}
    assert load({**longest, "DIGITS_MAX_BUFFERED_BYTES": "68k"}).max_buffered_bytes == 64 * 1024 + FORM_BYTES
    with pytest.raises(SettingsError, match="for its form"):
        load({**longest, "DIGITS_MAX_BUFFERED_BYTES": "67k"})


def test_a_key_is_never_shown() -> None:
    assert "s3cret" not in repr(load({"DIGITS_API_KEY": "s3cret"}))


def test_a_key_of_nothing_but_blanks_is_refused_and_no_key_is_none() -> None:
    assert load({"DIGITS_API_KEY": ""}).api_key == ""
    assert load({"DIGITS_API_KEY": " k\n"}).api_key == "k"
    with pytest.raises(SettingsError, match="DIGITS_API_KEY holds nothing but blanks"):
        load({"DIGITS_API_KEY": " \n"})


def test_the_service_takes_what_the_library_takes_unless_told_otherwise() -> None:
    assert (Settings().max_bytes, Settings().max_pixels) == (Limits().max_bytes, Limits().max_pixels)
