"""Installs ssl_gan_jax: `pip install -e .`; extras: test, export, dicom, gpu, tpu, bench."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="ssl_gan_jax",
    version="0.2.0",
    description="Semi-supervised GANs for chest X-ray classification in JAX/Flax",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The ssl_gan_jax authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="semi-supervised learning, GAN, chest X-ray, JAX, Flax, medical imaging",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["ssl_gan_jax", "ssl_gan_jax.*"]),
    package_data={"ssl_gan_jax.report": ["page.html"]},
    install_requires=[
        "absl-py",
        "defusedxml",
        "flax>=0.10",
        "ImageHash",
        "importlib_resources",  # tensorflow-datasets needs it and does not say so
        "jax>=0.9",
        "jinja2",
        "matplotlib",
        "ml-collections",
        "numpy>=2",
        "optax",
        "orbax-checkpoint>=0.11.30",
        "pillow",
        "rich",
        "scikit-image",
        "scikit-learn",
        "scipy",
        "simplejpeg",
        "tensorboard>=2.21",  # what looks at the events; older ones need setuptools < 82
        "tensorboardX",
        "tensorflow-cpu ; platform_system != 'Darwin'",  # tf.data; never computes
        "tensorflow ; platform_system == 'Darwin'",
        "tensorflow-datasets",
        "tifffile",
    ],
    extras_require={
        "test": [
            "hypothesis",
            "ipykernel",
            "nbclient",
            "pydicom>=3",
            "pylibjpeg[all]",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "pyyaml",
            "ruff",
        ],
        "export": ["jax2onnx>=0.13,<0.13.1", "onnxruntime"],  # later ones need Orbax < 0.11.37
        "dicom": ["pydicom>=3", "pylibjpeg[all]"],
        "gpu": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        "bench": ["torch"],
    },
)
