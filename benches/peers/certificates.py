"""A CA and a certificate for each end, P-256, valid for a day, made by openssl."""

import os
import subprocess


class Certificates:
    """ca.pem, and a.pem, a.key, b.pem, b.key; `a.both` has certificate and key in one file."""

    def __init__(self, directory):
        self.directory = directory
        os.makedirs(directory)
        openssl("req", "-x509", *KEY, "-keyout", self["ca.key"], "-out", self["ca.pem"], "-days", "1",
                "-subj", "/CN=peers", "-addext", "keyUsage=critical,keyCertSign")
        for name in ("a", "b"):
            openssl("req", "-x509", *KEY, "-keyout", self[f"{name}.key"], "-out", self[f"{name}.pem"],
                    "-CA", self["ca.pem"], "-CAkey", self["ca.key"], "-days", "1", "-subj", f"/CN={name}",
                    "-addext", f"subjectAltName=DNS:{name}", "-addext", "basicConstraints=CA:FALSE",
                    "-addext", "extendedKeyUsage=serverAuth,clientAuth")
            with open(self[f"{name}.both"], "w", encoding="ascii") as both:
                for part in ("pem", "key"):
                    with open(self[f"{name}.{part}"], encoding="ascii") as file:
                        both.write(file.read())

    def __getitem__(self, name):
        return os.path.join(self.directory, name)


KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def openssl(*words):
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {words[0]}: {done.stderr}")
