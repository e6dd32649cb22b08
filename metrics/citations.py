"""What several metric scripts of this folder cite."""

SCIKIT_LEARN = """
@article{scikit-learn,
  title={Scikit-learn: Machine Learning in {P}ython},
  author={Pedregosa, F. and others},
  journal={Journal of Machine Learning Research},
  volume={12}, pages={2825--2830}, year={2011}
}
"""

MATHQA = """
@inproceedings{amini2019mathqa,
  title={{MathQA}: Towards Interpretable Math Word Problem Solving with Operation-Based Formalisms},
  author={Amini, Aida and Gabriel, Saadia and Lin, Shanchuan and Koncel-Kedziorski, Rik and Choi, Yejin and
          Hajishirzi, Hannaneh},
  booktitle={Conference of the North American Chapter of the Association for Computational Linguistics},
  year={2019}
}
"""
